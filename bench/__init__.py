"""Latency: how long a bundle takes for an image and an answer, on which machine.

``programs`` measure the rest; ``records`` hold what was found.
"""
