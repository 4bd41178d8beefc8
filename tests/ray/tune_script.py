"""A script of Ray Tune that goes on where it was killed: ADDRESS, the study, Tune's own folder."""

import sys
from pathlib import Path

import ray
from ray import tune

from autopeft.tune import StudySearch, read_prepared, trainable

address, study, folder = sys.argv[1:]
ray.init(address, log_to_driver=False)
ready = read_prepared(Path(study))
if tune.Tuner.can_restore(f"{folder}/run"):
    print("restored")
    tuner = tune.Tuner.restore(f"{folder}/run", trainable(ready))
else:
    search = StudySearch(ready)
    tuner = tune.Tuner(
        trainable(ready),
        tune_config=tune.TuneConfig(
            num_samples=-1, search_alg=search, scheduler=search.scheduler(), reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=folder, name="run", verbose=0),
    )
tuner.fit()
