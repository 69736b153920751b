"""Azure Custom Vision: a published classifier of a project of one's own."""

from urllib.parse import quote

from reprogram.sources.http.adapter import Adapter, Answer, Images, Reply, Request, UnusableReply
from reprogram.sources.http.scores import labelled_objects, shown


class CustomVision(Adapter):
    """Prediction API v3.0, one image of at most 4 MB a request; the reply has the probability of every tag.

    The service enlarges images below 256 pixels a side. It takes 20 requests a second (10 with ``store_images``; 2 of
    the free tier), and its end is announced for 2028.

    Args:
        project: Id of the project.
        iteration: The name under which an iteration was published, not its id.
        store_images: Whether the service keeps the images, for 30 days, so that they can be trained on: patients'
            images are not to stay there.

    Reference:
        https://github.com/Azure/azure-rest-api-specs, data-plane/CustomVision/Prediction/stable/v3.0/Prediction.json
        (ClassifyImage, ClassifyImageWithNoStore);
        https://learn.microsoft.com/azure/ai-services/custom-vision-service/limits-and-quotas. Which failed requests are
        charged is not documented there.
    """

    key_header = ("Prediction-Key", "")

    def __init__(self, project: str, iteration: str, store_images: bool = False) -> None:
        self.project, self.iteration, self.store_images = project, iteration, store_images

    @property
    def identity(self) -> str:
        """Project and iteration."""
        return repr(("custom_vision", self.project, self.iteration))

    def request(self, images: Images) -> Request:
        """Posts one image."""
        (file,) = images.files
        model = f"{quote(self.project, safe='')}/classify/iterations/{quote(self.iteration, safe='')}"
        path = f"customvision/v3.0/Prediction/{model}/image{'' if self.store_images else '/nostore'}"
        return Request(path, file, {"Content-Type": "application/octet-stream"})

    def read(self, reply: Reply, count: int) -> list[Answer]:
        """Tags with their probabilities, which sum to one unless an image may have several tags.

        Raises:
            UnusableReply: If the reply is something else; that of a detector has tags more than once.
        """
        del count  # one, by ``most``
        said = reply.json()
        if not isinstance(said, dict) or "predictions" not in said:
            raise UnusableReply(f"expected an object with predictions, got {shown(said)}")
        return [labelled_objects(said["predictions"], "tagName", "probability")]
