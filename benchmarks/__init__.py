"""How fast Relight is, measured on private servers against what PostgreSQL and RabbitMQ can do. Nothing in `service/`
but its command line imports this; what is measured is the real `serve`, never an engine of our own.
"""
