"""Image files to pixels: the one decoder that learning and serving share, and the first look at a file."""

from tlserve.images.decode import ImageDecoder, Picture
from tlserve.images.examine import Examination, examine
from tlserve.images.files import DEFAULT_MAX_PIXELS
from tlserve.images.views import ViewMaker

__all__ = ["DEFAULT_MAX_PIXELS", "Examination", "ImageDecoder", "Picture", "ViewMaker", "examine"]
