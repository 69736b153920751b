"""What the exit code of a command says, beside 0."""

WRONG_USE = 2  # an error that the message tells how to put right
LOST = 70  # EX_SOFTWARE of sysexits.h: another process of the run has died or hangs; the same command continues
PREEMPTED = 75  # EX_TEMPFAIL: a SIGTERM ended the run; nothing is wrong, and the same command continues
INTERRUPTED = 130  # Ctrl-C; the same command continues
UNREAD = 141  # nobody reads the output any more
