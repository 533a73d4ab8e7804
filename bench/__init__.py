"""Latency: what a bundle takes for an image and an answer, on which machine. Programs beside it
measure the rest; records/ holds what they found."""
