"""Search for settings: learning rate, momentum, weight decay, batch size and width, with Optuna.

    python -m training search --out runs/search --trials 30

In: what stays fixed, as flags of `python -m training`.  Out: `search.db`, `search.png`, a table, and the
command that trains with the best settings.
"""
