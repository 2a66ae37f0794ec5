"""The tests of Relight; see docs for what each suite proves."""
