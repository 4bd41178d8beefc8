"""The cohort loop: several trials on one copy of the frozen backbone."""
