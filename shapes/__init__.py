"""The world we can measure: procedural scenes, what is said about them, and a scorer of pixels.

Numpy alone draws and describes; only the scorer needs scipy (extra ``evals``). The package knows no
model.
"""
