"""Which cases a reader should see, and what is shown of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One case of the gallery.

    Attributes:
        section: why it is shown: "errors" (wrong and most confident), "uncertain", or "typical" (right and most
            confident, of each class).
        id: of the case, which for files is the path.
        target: its class.
        pred: the class that was predicted.
        prob: calibrated probability of `pred`.
        prob_target: calibrated probability of `target`.
        original: PNG of the image as the network saw it.
        overlay: PNG of the same with the class activation map of `pred` over it; None where there is no map.
    """

    section: str
    id: str
    target: str
    pred: str
    prob: float
    prob_target: float
    original: bytes
    overlay: bytes | None
