"""For scripts that use Ray Tune: its searchers in our spaces, our study and promotions in its runs.

from ray import tune
from autopeft.tune import param_space, prepare, trainable

ready = prepare("study.yaml", out="trials/tuned")
tuner = tune.Tuner(
trainable(ready),
param_space=param_space(ready.setup.space),
tune_config=tune.TuneConfig(num_samples=40, reuse_actors=True),
)
study = autopeft.Study.from_result_grid(tuner.fit(), "trials/tuned")
"""

try:
    import ray.tune as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "autopeft.tune needs Ray Tune, which is not installed: pip install 'autopeft[ray]'"
    ) from error

from autopeft.study.prepared import read_prepared
from autopeft.tune.prepare import prepare
from autopeft.tune.scheduler import Brackets, PromotionScheduler
from autopeft.tune.search import StudySearch
from autopeft.tune.space import param_space
from autopeft.tune.trainable import PeftTrainable, trainable

__all__ = [
    "Brackets",
    "PeftTrainable",
    "PromotionScheduler",
    "StudySearch",
    "param_space",
    "prepare",
    "read_prepared",
    "trainable",
]
