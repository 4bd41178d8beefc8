"""Where jobs run. A job goes in, records come out; engines never see the study."""
