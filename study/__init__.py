"""What BatchNorm does, measured: claims that articles make, each beside a number and a verdict.

    python -m study --quick

In: a data set.  Out: `report.md`, its plots and `claims.json`, and `cells/`, from which an interrupted
study resumes.  One way through:

    experiments/   which cells to measure, what a claim is measured by, what to draw
    lab.py         a cell is measured once: its result is a file, named by its settings
    short_run.py   the cell of nearly all of them: one net trained for a number of steps
    surface.py     the loss around a trained net;  minima.py: between the minima of three optimizers
    claims.py      held, did not hold, or not decided: one rule, fixed beforehand; more seeds until it decides
    report.py      all that as one page
"""
