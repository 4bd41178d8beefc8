"""The ops: one file for each functional form, each stacked over the trials of a cohort."""
