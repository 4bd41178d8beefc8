"""The Ray engine: the jobs of the local engine on the nodes of a cluster.

Nothing but this and `tune/` knows Ray. `station.py`, `letters.py` and `files.py` are what runs at
both ends and import none of it; `cluster.py` connects, `slot.py` is one worker as the driver sees
it, and `engine.py` drives them.
"""
