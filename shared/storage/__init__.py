"""Storage: the content of files, in a folder or in an S3-compatible store.

    open_writer -> chunks -> end of the block: durable, whole and readable
                      |
                      +-- anything raised, the process killed: nothing is there

An object is written once, under a key of ours, and never changed; it is read from any offset and
deleted. Nothing here holds more of an object than a part of 8 MiB. What a process that died left
half written is not to be seen, and `remove_unfinished` takes it away.

Whether there should be an object is for the rows of the database to say: see shared.files.
"""
