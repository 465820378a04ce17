"""ONNX graphs of our models, written node by node from the module tree.

graph.py holds nodes and constants, weights.py products and lookups of packed weights, layers.py what is made of them; then
one file for each kind of model. Written out instead of traced: what is stored are the artifact's codes, batch and time stay
free, and every product is the one that the artifact's module computes.
"""
