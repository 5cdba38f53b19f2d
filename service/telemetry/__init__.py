"""What happened: counts, log lines, spans; of one worker and of all of them."""
