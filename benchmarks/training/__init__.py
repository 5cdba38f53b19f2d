"""How fast is the training loop, compared with a bare PyTorch loop?  One table of ratios, one run.

    python -m benchmarks.training --quick                    # on 2 cores, a few minutes
    python -m benchmarks.training --out benchmarks/results   # all of it; on a GPU if there is one
    python -m benchmarks.training --to-accuracy 0.935 --data fashion-mnist    # seconds and epochs until then

Both sides have the same net, weights, batches, number format, optimizer and schedule, without augmentation,
and end with the same weights, which is checked. Ours also watches for non-finite losses, counts right
answers and draws its live display. The sides alternate; a round is an epoch without its evaluation. Figures
are medians of the rounds, and the ratio is the median of the ratios within each round. The table also has
two lower bounds of the device, measured in the same run: the net's arithmetic at the speed of a large
matrix product, and its memory traffic at the speed of a copy.
"""
