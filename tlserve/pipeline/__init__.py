"""One pass from snapshot to release, in the trainer: a process of its own that may die at any moment.

Run as ``python -m tlserve.pipeline``, or with ``--role tuner`` for one fine-tuning; either reads jobs from
standard input and writes events to standard output, in the form of `core.messages`.
"""
