"""Messages of the wire: written by proto/generate.py (`make proto`), all but this file and _pool.py."""
