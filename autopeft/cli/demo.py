"""`autopeft demo`: the embedded model, text made on the spot, and a look at unseen rows."""

from pathlib import Path

from autopeft.demo.model import embedded_model
from autopeft.demo.text import build
from autopeft.study.events import Watcher
from autopeft.study.folder import Study
from autopeft.study.search import run_search
from autopeft.study.spec import BudgetSpec, SelectionSpec, StudySpec
from autopeft.study.unseen import Opening, open_test
from autopeft.tasks.spec import DataSpec
from autopeft.training.spec import TrainingSpec

EPOCHS = 3
MAX_LENGTH = 64


def run_demo(out: Path, *, trials: int, seed: int, watcher: Watcher) -> tuple[Study, Opening]:
    """Search with the embedded model, then score the recommendation on rows it has not seen.

    Args:
        out: folder of the study; the text lies beside it, in `{out}-text`.
        trials: in all.
        seed: of text and search.
        watcher: is told what happens.

    Raises:
        DataError: the package with the model is not installed, or too little text was found.
        ConfigError: `out` is something else than an earlier demo.
    """
    model = embedded_model()
    Study(out).check_usable()
    text = build(out.with_name(f"{out.name}-text"), seed)
    spec = StudySpec(
        model=str(model),
        data=DataSpec(
            train=text.train.resolve(),
            validation=text.validation.resolve(),
            test=text.test.resolve(),
            selection_rows=0,
        ),
        budget=BudgetSpec(max_params="1%", trials=trials),
        training=TrainingSpec(epochs=EPOCHS, max_length=MAX_LENGTH),
        selection=SelectionSpec(seeds=0),  # a few trials; the test split says what to expect
        seed=seed,
    )
    study = run_search(spec, out, watcher=watcher)
    return study, open_test(study)
