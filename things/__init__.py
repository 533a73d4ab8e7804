"""A world of everyday things: scenes of emoji artwork, what is said about them, and a scorer.

Numpy and Pillow draw and describe, in English and Korean; only the scorer needs scipy (extra
``evals``). The package knows no model. ``artwork/NOTICE`` says whose drawings these are.
"""
