"""How the weights of `nano` are made: a small network learns to see as a large one does.

pictures -> views -> the teacher's targets, once -> many epochs of the student. Not part of what is
installed; `python plugins/nano/train.py` runs it.
"""
