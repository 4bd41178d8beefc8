"""The study: what is searched, what was tried and measured, what to try next."""
