"""The real process killed at its worst moments on real servers, judged from outside. No test of a single part here."""
