"""How fast is the service, compared with its alternatives?  One table of ratios, one run.

    python -m benchmarks.serving install litserve bentoml    # peers, each in its own environment
    python -m benchmarks.serving --quick --out /tmp/quick    # the digit net, a few minutes
    python -m benchmarks.serving                             # three nets, every format and load; takes hours

Each round starts one system after another, alone on the machine, waits for its first right answer, and drives
it: wrk at 1, 16 and 64 connections (closed loop), then our own driver at 50 % and 90 % of our own maximum
(open loop, latency from the scheduled time).  Every answer is compared with the golden one.  Figures are
medians of the rounds.  A run that was stopped resumes: measurements are kept in serving.csv of --out.
"""
