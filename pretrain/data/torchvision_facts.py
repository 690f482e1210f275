"""The sets that torchvision knows, with their official splits: the transfer sets of the field, in one table.

Counts and metrics follow Kornblith et al. 2019 (arXiv:1805.08974, table 1), which SimCLR (arXiv:2002.05709, appendix
B.8) and BYOL took over; each row says where it differs. Those after SUN397 are sets of VTAB (google-research/
task_adaptation) and ELEVATER (Computer-Vision-in-the-Wild/Elevater_Toolkit_IC), which report accuracy on them, unless
the row says otherwise. Importing this module needs neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.runtime.errors import unknown


@dataclass(frozen=True)
class SetFacts:
    """What is known of a public set before it is there.

    Attributes:
        name: in the catalog; also the name of torchvision's class.
        classes: K.
        train, val, test: numbers of images; 0 where the set has no such split.
        metric: what the field reports: "top1" or "mean_per_class".
        where: the page of its authors, where people get it when torchvision cannot fetch it.
        note: what differs from the table's source.
    """

    name: str
    classes: int
    train: int
    val: int
    test: int
    metric: str
    where: str
    note: str = ""

    def splits(self) -> tuple[str, ...]:
        """The splits the set has."""
        return tuple(split for split in ("train", "val", "test") if getattr(self, split))


SETS: dict[str, SetFacts] = {
    facts.name: facts
    for facts in (
        SetFacts("CIFAR10", 10, 50_000, 0, 10_000, "top1", "https://www.cs.toronto.edu/~kriz/cifar.html"),
        SetFacts("CIFAR100", 100, 50_000, 0, 10_000, "top1", "https://www.cs.toronto.edu/~kriz/cifar.html"),
        SetFacts(
            *("STL10", 10, 5_000, 0, 8_000, "top1", "https://cs.stanford.edu/~acoates/stl10/"),
            note="not in the table; the 100,000 unlabelled images are left out",
        ),
        SetFacts(
            *("Food101", 101, 75_750, 0, 25_250, "top1"), "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
        ),
        SetFacts(
            *("OxfordIIITPet", 37, 3_680, 0, 3_669, "mean_per_class", "https://www.robots.ox.ac.uk/~vgg/data/pets/"),
            note="the table prints 3,369 test images; the set's own list has 3,669",
        ),
        SetFacts(
            *("Flowers102", 102, 1_020, 1_020, 6_149, "mean_per_class"),
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            note="the table trains on train and val together: join_val",
        ),
        SetFacts(
            *("StanfordCars", 196, 8_144, 0, 8_041, "top1", "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"),
            note="its page is gone and torchvision cannot download it; put the files in place by hand",
        ),
        SetFacts(
            *("FGVCAircraft", 100, 3_334, 3_333, 3_333, "mean_per_class"),
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
            note="100 variants; the table trains on train and val together: join_val",
        ),
        SetFacts(
            *("DTD", 47, 1_880, 1_880, 1_880, "top1", "https://www.robots.ox.ac.uk/~vgg/data/dtd/"),
            note="partition 1 of 10; the table trains on train and val together: join_val",
        ),
        SetFacts(
            *("Caltech101", 101, 3_030, 0, 5_647, "mean_per_class", "https://data.caltech.edu/records/mzrjq-6wc02"),
            note="no official split: 30 images a class train, drawn with `partition` as the seed; torchvision leaves "
            "out the background class, which the table counts (102 classes, 3,060 / 6,084)",
        ),
        SetFacts(
            *("SUN397", 397, 19_850, 0, 19_850, "top1", "https://vision.princeton.edu/projects/2010/SUN/"),
            note="the official partitions are a file of their own, Partitions.zip of the same page; Training_01.txt "
            "and Testing_01.txt from it are looked for in ROOT/SUN397",
        ),
        SetFacts(
            *("EuroSAT", 10, 21_600, 0, 5_400, "top1", "https://github.com/phelber/EuroSAT"),
            note="no official split: a fifth of each class is test, as many images as VTAB tests on, drawn with "
            "`partition` as the seed (VTAB's own images go by the order of TensorFlow Datasets)",
        ),
        SetFacts(
            *("GTSRB", 43, 26_640, 0, 12_630, "top1", "https://benchmark.ini.rub.de/"),
            note="torchvision's training images are those of GTSRB-Training_fixed.zip",
        ),
        SetFacts(
            *("SVHN", 10, 73_257, 0, 26_032, "top1", "http://ufldl.stanford.edu/housenumbers/"),
            note="the 531,131 extra images are left out",
        ),
        SetFacts(
            *("Country211", 211, 31_650, 10_550, 21_100, "top1"),
            "https://github.com/openai/CLIP/blob/main/data/country211.md",
        ),
        SetFacts(
            *("FER2013", 7, 28_709, 0, 7_178, "top1"),
            "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
            note="grey; the test images are PublicTest and PrivateTest, whose labels are in fer2013.csv or "
            "icml_face_data.csv (not in test.csv); torchvision cannot download it",
        ),
        SetFacts(
            *("RenderedSST2", 2, 6_920, 872, 1_821, "top1"),
            "https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
        ),
        SetFacts(
            *("CLEVRClassification", 8, 70_000, 0, 15_000, "top1", "https://cs.stanford.edu/people/jcjohns/clevr/"),
            note="3 to 10 objects; CLEVR's own test images have no labels, so that its val is test, as in VTAB",
        ),
        SetFacts(
            *("Imagenette", 10, 9_469, 3_925, 0, "top1", "https://github.com/fastai/imagenette"),
            note="the second version, images of full size; not in VTAB or ELEVATER",
        ),
        SetFacts(
            *(
                "INaturalist",
                10_000,
                2_686_843,
                100_000,
                0,
                "top1",
                "https://github.com/visipedia/inat_comp/tree/master/2021",
            ),
            note="of 2021, all training images; not in VTAB or ELEVATER",
        ),
    )
}


def facts(name: str) -> SetFacts:
    """What is known of a set. Raises InputError for a name that is none, with those that are."""
    if name not in SETS:
        raise unknown("torchvision data set", name, SETS)
    return SETS[name]
