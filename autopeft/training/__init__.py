"""The cohort loop: several trials on one copy of the frozen backbone."""

import os

# On CPUs without AVX-512 the bits of MKL's products depend on where in memory a matrix begins,
# and so on a trial's company; not so in this mode, which costs no time. MKL reads it at its first
# product, so whoever has multiplied before has to set it.
os.environ.setdefault("MKL_CBWR", "AUTO")
