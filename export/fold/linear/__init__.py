"""Write what stands before and after a linear op into its weights: what every fold ends in.

In: a node and the affine maps around it.  Out: where they went, in words, or a `Refusal`.
"""
