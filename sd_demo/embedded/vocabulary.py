"""Every word and phrase of the world's language."""

from __future__ import annotations

from sd_demo.embedded.objects import KINDS

OBJECT_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "ball": (("ball", "balls"), ("rubber ball", "rubber balls")),
    "umbrella": (("umbrella", "umbrellas"), ("parasol", "parasols")),
    "teapot": (("teapot", "teapots"), ("tea pot", "tea pots"), ("kettle", "kettles")),
    "cat": (("cat", "cats"), ("kitten", "kittens"), ("kitty", "kitties")),
    "dog": (("dog", "dogs"), ("puppy", "puppies"), ("doggy", "doggies")),
    "rabbit": (("rabbit", "rabbits"), ("bunny", "bunnies"), ("hare", "hares")),
    "fish": (("fish", "fish"), ("fish", "fishes")),
    "duck": (("duck", "ducks"), ("duckling", "ducklings")),
    "snail": (("snail", "snails"),),
    "tree": (("tree", "trees"), ("oak", "oaks")),
    "flower": (("flower", "flowers"), ("blossom", "blossoms"), ("daisy", "daisies")),
    "mushroom": (("mushroom", "mushrooms"), ("toadstool", "toadstools")),
    "cactus": (("cactus", "cacti"), ("cactus", "cactuses")),
    "car": (("car", "cars"), ("automobile", "automobiles"), ("auto", "autos")),
    "bus": (("bus", "buses"), ("coach", "coaches")),
    "train": (("train", "trains"), ("locomotive", "locomotives"), ("steam engine", "steam engines")),
    "boat": (("boat", "boats"), ("sailboat", "sailboats"), ("ship", "ships"), ("sailing boat", "sailing boats")),
    "rocket": (("rocket", "rockets"), ("spaceship", "spaceships"), ("rocket ship", "rocket ships")),
    "house": (("house", "houses"), ("cottage", "cottages"), ("home", "homes")),
    "castle": (("castle", "castles"), ("palace", "palaces"), ("fortress", "fortresses")),
    "tent": (("tent", "tents"), ("camping tent", "camping tents")),
    "lighthouse": (("lighthouse", "lighthouses"),),
    "balloon": (("balloon", "balloons"), ("party balloon", "party balloons")),
    "kite": (("kite", "kites"),),
    "bird": (("bird", "birds"), ("birdie", "birdies")),
    "butterfly": (("butterfly", "butterflies"), ("moth", "moths")),
    "airplane": (("airplane", "airplanes"), ("plane", "planes"), ("aeroplane", "aeroplanes"), ("jet", "jets")),
    "hot-air balloon": (("hot-air balloon", "hot-air balloons"), ("hot air balloon", "hot air balloons")),
    "sun": (("sun", "suns"),),
    "moon": (("moon", "moons"), ("crescent moon", "crescent moons"), ("crescent", "crescents")),
    "star": (("star", "stars"),),
    "cloud": (("cloud", "clouds"),),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chocolate"),
    "black": ("black", "ebony"),
    "white": ("white", "ivory"),
    "grey": ("grey", "gray", "silver"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge", "giant"),
}
POSITION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "to the left", "at the left"),
    "middle": ("in the middle", "in the center", "in the centre", "at the center"),
    "right": ("on the right", "on the right side", "to the right", "at the right"),
}
DEPTH_PHRASES: dict[str, tuple[str, ...]] = {
    "near": ("in the foreground", "up close", "close by", "nearby"),
    "far": ("far away", "in the distance", "in the background", "far off"),
    "sky": ("in the sky", "up in the sky", "high in the sky"),
}
# Each scene: how things are in it, and what it is called by itself.
SCENE_PHRASES: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "in the meadow", "on the grass", "on a lawn", "in the grass"),
    "beach": ("on the beach", "on a beach", "at the beach", "by the sea", "at the seaside", "on the shore"),
    "snow": ("in the snow", "in a snowy landscape", "in winter", "on the snow", "in a winter landscape"),
    "desert": ("in the desert", "in a desert", "among the dunes", "in a sandy desert"),
    "forest": ("in the forest", "in a forest", "in the woods", "in a wood"),
    "mountains": ("in the mountains", "among the mountains", "in the alps", "in a mountain valley"),
    "sea": ("on the sea", "in the sea", "on the ocean", "in the ocean", "on the water", "on the waves"),
    "city": ("in the city", "in a city", "in the town", "downtown", "on a street"),
    "farm": ("on a farm", "on the farm", "in a wheat field", "in a field", "in the countryside"),
    "space": ("in space", "in outer space", "on a planet", "on another planet", "in the universe"),
}
SCENE_NOUNS: dict[str, tuple[str, ...]] = {
    "meadow": ("a meadow", "a grassy meadow", "a lawn"),
    "beach": ("a beach", "a sandy beach", "the seaside"),
    "snow": ("a snowy landscape", "a winter landscape", "snow"),
    "desert": ("a desert", "the desert", "sand dunes"),
    "forest": ("a forest", "the woods", "the forest"),
    "mountains": ("mountains", "the mountains", "a mountain landscape"),
    "sea": ("the sea", "the ocean", "an ocean"),
    "city": ("a city", "the city", "a town", "a street"),
    "farm": ("a farm", "a wheat field", "the countryside"),
    "space": ("outer space", "space", "a planet"),
}
TIME_PHRASES: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "in daylight", "at noon"),
    "sunset": ("at sunset", "in the evening", "at dusk", "at sundown"),
    "night": ("at night", "in the dark", "by night", "at midnight"),
}
WEATHER_PHRASES: dict[str, tuple[str, ...]] = {
    "clear": ("in clear weather", "in fine weather"),
    "rain": ("in the rain", "in rainy weather", "while it rains", "while it is raining"),
    "snowfall": ("in falling snow", "in snowy weather", "while it snows", "while it is snowing"),
    "fog": ("in the fog", "in the mist", "in foggy weather", "in misty weather"),
}
STYLE_PREFIXES: dict[str, tuple[str, ...]] = {
    "picture book": ("a picture of", "an illustration of", "a picture book illustration of"),
    "pencil drawing": ("a pencil drawing of", "pencil drawing of", "a pencil sketch of", "a sketch of"),
    "pixel art": ("pixel art of", "a pixel art picture of"),
}
STYLE_SUFFIXES: dict[str, tuple[str, ...]] = {
    "picture book": ("as a picture book illustration", "in picture book style"),
    "pencil drawing": ("as a pencil drawing", "as a pencil sketch", "pencil drawing", "drawn in pencil"),
    "pixel art": ("as pixel art", "pixel art", "in pixel art style"),
}
STYLE_TAGS: dict[str, tuple[str, ...]] = {
    "picture book": ("picture book",),
    "pencil drawing": ("pencil drawing", "pencil sketch", "sketch"),
    "pixel art": ("pixel art", "pixelated"),
}
WEATHER_TAGS: dict[str, tuple[str, ...]] = {
    "clear": ("clear weather",),
    "rain": ("rain", "rainy", "raining"),
    "snowfall": ("snowfall", "snowing", "falling snow"),
    "fog": ("fog", "foggy", "mist", "misty"),
}
TIME_TAGS: dict[str, tuple[str, ...]] = {
    "day": ("day", "daylight", "daytime"),
    "sunset": ("sunset", "evening", "dusk"),
    "night": ("night", "dark", "nighttime", "midnight"),
}
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "next to": ("next to", "beside", "near", "by"),
    "in front of": ("in front of", "before"),
    "above": ("above", "over", "high above"),
}
# The same said from the other thing's side.
REVERSED_RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "next to": RELATION_PHRASES["next to"],
    "in front of": ("behind", "in back of"),
    "above": ("below", "under", "underneath", "beneath"),
}
SIDE_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
}
NUMBER_WORDS = {2: "two", 3: "three"}
JOINTS = ("a", "an", "the", "and", "with", "there is", "there are", "empty")
_SITTING = ("sitting", "standing", "waiting")
_DRIVING = ("standing", "parked", "driving")
# What an object may be said to do; it changes nothing in the picture.
DOINGS: dict[str, tuple[str, ...]] = {
    name: ("flying", "floating") if kind.is_in_sky else ("standing",) for name, kind in KINDS.items()
} | {
    **dict.fromkeys(("cat", "dog", "rabbit", "duck", "snail"), _SITTING),
    **dict.fromkeys(("car", "bus", "train"), _DRIVING),
    **dict.fromkeys(("sun", "moon", "star"), ("shining",)),
    **dict.fromkeys(("tree", "flower", "mushroom", "cactus"), ("growing", "standing")),
    "ball": ("lying", "bouncing"),
    "fish": ("swimming",),
    "boat": ("sailing", "floating"),
}
