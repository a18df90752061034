"""The public names, the same for type checkers and for whoever imports them; the site of `make docs` lists them in this order."""

__version__: str

from .space.arch import TRACK1 as TRACK1, MINI as MINI, TRACK1_THIN as TRACK1_THIN, SearchSpace as SearchSpace, Arch as Arch
from .space.named import load_space as load_space
from .config.shipped import CONFIGS as CONFIGS
from .config.loading import Config as Config, load_config as load_config
from .errors import UserError as UserError
from .priors.cost import macs as macs, params as params
from .priors.zen import zen_score as zen_score
from .priors.by_name import make_prior as make_prior, with_prior as with_prior
from .scores.files import (
    Candidate as Candidate,
    read_candidates as read_candidates,
    read_scores as read_scores,
    sample_candidates as sample_candidates,
    write_scores as write_scores,
)
from .scores.matched import Correlation as Correlation, correlate as correlate
from .nn.supernet import Supernet as Supernet, extract as extract
from .nn.weights import load_weights as load_weights
from .training.trainer import train as train
from .training.standalone import train_standalone as train_standalone
from .scoring.session import score as score
from .scoring.submission import write_submission as write_submission
from .report.comparison import compare as compare
from .report.words import table as table
from .report.page import write_page as write_page
from .searching.search import search as search
from .exporting.export import export as export, load_subnet as load_subnet
from .exporting.inference import open_inference_model as open_inference_model
