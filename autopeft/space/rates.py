"""Learning rates go by the width of a model."""

EXPONENT = 0.78
"""Of the width, by which the best rates of LoRA fall in Llama models: 5e-4 (2000 / d_model)^0.78.

Schulman et al., 2025, "LoRA Without Regret" (Thinking Machines Lab), and `hyperparam_utils` of its
cookbook.
"""


def rate_at(rate: float, width: int, d_model: int) -> float:
    """The learning rate for a model, of one that is for models of another width.

    In wider models it is lower, by (width / d_model)^0.78, with two significant digits; in
    narrower ones it is the same.

    Args:
        rate: for models of the width.
        width: of hidden states between layers.
        d_model: that of the model.
    """
    if d_model <= width:
        return rate
    return float(f"{rate * (width / d_model) ** EXPONENT:.2g}")
