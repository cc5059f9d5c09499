"""Light that changes: from the samples' thumbnails, what brings them to a common light, or which of them share one.

A thumbnail has the mean of each square patch of its sample: (T, PH, PW, C) uint8 or uint16 for T samples.
All sums are of integers, and all else is done value by value: the same bits on every machine.
"""
