"""The mini track: a study of training methods on a small search space, with its own stand-alone truth, tables and pictures."""
