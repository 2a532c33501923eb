"""Files and texts as chance damages them, or as somebody makes them who wishes ill, given to all readers.

``seeds`` makes valid and evil inputs of each kind, ``mutate`` changes them as a function of a number alone,
and ``worker`` gives them to their reader in a process with little memory, which ``harness`` watches.
"""
