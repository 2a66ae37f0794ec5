"""The actions: what a step does to the world, how it is planned in words, probed, and told to people.

An action reads its context and touches only the ports in it. The engine is not known here, nor is any library of an
adapter; what moves next is the machine's business.
"""
