"""Training steps and learning rates of the published code, and their replay by this project.

The JSON files here were computed with the published PGONAS code and the organisers' baseline, on Paddle 2.6.2 on a CPU.
"""

from pathlib import Path

from paddle_pgonas.runtime import prepare_process

prepare_process()

FOLDER = Path(__file__).parent
LEARNING_RATES = FOLDER / "published_learning_rates.json"
"""Rates at chosen steps, for several numbers of GPUs and steps per epoch."""
STEPS = (FOLDER / "published_pgonas_steps.json", FOLDER / "organisers_baseline_steps.json")
"""Three consecutive optimizer steps each."""
