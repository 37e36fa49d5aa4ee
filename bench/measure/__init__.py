"""The parts of the bench. What is run are compare.py and control.py."""
