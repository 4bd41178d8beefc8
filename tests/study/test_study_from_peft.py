"""docs/from-peft-and-optuna.md: what it translates is there, under these names."""

import re
from pathlib import Path

from study_factory import optuna_study
from synthetic_study import MINILM

import autopeft
from autopeft.space.methods import method

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-peft-and-optuna.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_genotype_is_the_lora_that_it_says(tmp_path):
    assert '`LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])`' in TEXT
    (block,) = re.findall(r"```yaml\n(.+?)```", TEXT, re.DOTALL)
    (tmp_path / "genotype.yaml").write_text(block, encoding="utf-8")

    found = autopeft.load_genotype(tmp_path / "genotype.yaml")

    assert found.ops == method("lora").genotype(MINILM).ops


def test_optuna_reads_the_study(done):
    (name, url) = re.findall(r'load_study\(study_name="(.+?)", storage="(.+?)"\)', TEXT)[0]
    url = url.replace("trials/study", str(done.folder))

    with optuna_study(url, name) as study:
        trials = study.trials

    assert len(trials) == 5
    assert all("genotype" in trial.user_attrs for trial in trials)
