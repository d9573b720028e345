"""Synthetic H&E tissue with masks: to try everything without data, and to test where the truth is known."""

from patch2tissue.data.synthetic.difficulty import DIFFICULTIES, Difficulty
from patch2tissue.data.synthetic.patches import render_patch
from patch2tissue.data.synthetic.slides import Slide
from patch2tissue.data.synthetic.stain import SlideStain
from patch2tissue.data.synthetic.writer import make_synthetic

__all__ = ["DIFFICULTIES", "Difficulty", "Slide", "SlideStain", "make_synthetic", "render_patch"]
