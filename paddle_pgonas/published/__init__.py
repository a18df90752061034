"""Training steps and learning rates that the published PGONAS code and the organisers' baseline computed (Paddle 2.6.2, CPU)."""

from pathlib import Path

from paddle_pgonas.runtime import prepare_process

prepare_process()

FOLDER = Path(__file__).parent
LEARNING_RATES = FOLDER / "published_learning_rates.json"
"""Rates at chosen steps, for several numbers of GPUs and steps per epoch."""
STEPS = (FOLDER / "published_pgonas_steps.json", FOLDER / "organisers_baseline_steps.json")
"""Three consecutive optimizer steps each."""
