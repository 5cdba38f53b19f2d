"""Write what stands before and behind a linear op into its weights: what every fold ends in.

In: a node and the affine maps around it.  Out: `Folded`, or the reason why its weights cannot carry them.
"""
