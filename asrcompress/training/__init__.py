"""Fine-tuning a model on the very weights that its file stores.

In reading order: `grid` (a weight on its grid, differentiable), `attach` (such weights in a float model, and out again),
`schedule` (learning rate, when masks are chosen anew), `batches` (who sees what in which update), `loss` (the task's own and the
teacher's), `parallel` (ranks), `trainer` (the loop), `state` (stopping and going on). Knows modules and tensors; neither files of
models nor data sets.
"""
