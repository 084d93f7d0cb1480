"""Words and phrases beside vocabulary.py's that strangers type: what other_words.py puts captions into, and aliases."""

from __future__ import annotations

POSITIONS: dict[str, tuple[str, ...]] = {
    "left": ("left", "on the left side of the picture", "on the left hand side"),
    "middle": ("in the middle of the picture", "in the center of the picture"),
    "right": ("right", "on the right side of the picture", "on the right hand side"),
}
SIDES = {"left": ("on the left of", "on the left side of"), "right": ("on the right of", "on the right side of")}
OBJECTS: dict[str, tuple[tuple[str, str], ...]] = {
    "dog": (("pup", "pups"),),
    "rabbit": (("bunny rabbit", "bunny rabbits"),),
    "fish": (("goldfish", "goldfish"),),
    "flower": (("tulip", "tulips"), ("rose", "roses")),
    "boat": (("yacht", "yachts"), ("sailing ship", "sailing ships")),
    "rocket": (("spacecraft", "spacecraft"), ("rocketship", "rocketships")),
    "house": (("cabin", "cabins"), ("hut", "huts")),
    "airplane": (("aircraft", "aircraft"),),
    "ball": (("beach ball", "beach balls"),),
}
COLOURS = {"yellow": ("gold",), "purple": ("lavender",), "red": ("ruby",), "orange": ("orange coloured",)}
SIZES = {
    "small": ("mini", "teeny", "very small"),
    "medium": ("medium sized", "middle-sized"),
    "large": ("enormous", "gigantic"),
}
SCENES: dict[str, tuple[str, ...]] = {
    "meadow": ("on grass", "on green grass", "in a field of grass", "in the garden"),
    "beach": ("on sand", "on the coast", "at the sea", "on the sand"),
    "snow": ("in snow", "on snow", "in a snowy field"),
    "desert": ("in desert sand", "on desert sand"),
    "forest": ("in woods", "in a dense forest"),
    "mountains": ("in mountains", "on a mountain", "in the hills"),
    "sea": ("at sea", "in the water", "on water", "on a lake"),
    "city": ("in town", "in the street", "in the streets", "in a village"),
    "farm": ("in the fields", "in a corn field", "on farmland"),
    "space": ("in the cosmos",),
}
# A scene with the weather or the light as its adjective.
PLACES: dict[str, tuple[str, str]] = {
    "meadow": ("in a", "meadow"),
    "beach": ("on a", "beach"),
    "snow": ("in a", "winter landscape"),
    "desert": ("in a", "desert"),
    "forest": ("in a", "forest"),
    "mountains": ("in", "mountains"),
    "sea": ("on a", "sea"),
    "city": ("in a", "city"),
    "farm": ("on a", "farm"),
}
WEATHERS = {"rain": ("rainy", "wet"), "fog": ("foggy", "misty"), "snowfall": ("snowy",), "clear": ("sunny",)}
LIGHTS = {"day": ("day",), "sunset": ("evening",), "night": ("night",)}
TIMES: dict[str, tuple[str, ...]] = {
    "day": ("during daytime", "in the morning", "in the afternoon", "at midday"),
    "sunset": ("during sunset", "at dawn", "at sunrise", "in twilight"),
    "night": ("during the night", "in the night", "at nighttime"),
}
FALLING: dict[str, tuple[str, ...]] = {
    "clear": ("in clear weather", "in good weather"),
    "rain": ("in rain", "it is raining", "in heavy rain", "with rain"),
    "snowfall": ("it is snowing", "with snow falling", "with falling snow"),
    "fog": ("in fog", "in mist", "with fog", "it is foggy"),
}
STYLES: dict[str, tuple[str, ...]] = {
    "picture book": ("storybook illustration", "children's book illustration", "illustration"),
    "pencil drawing": ("pencil drawing", "pencil sketch", "sketch"),
    "pixel art": ("pixel art", "pixel-art"),
}
STYLES_AFTER = {
    "picture book": ("in the style of a picture book",),
    "pencil drawing": ("in pencil", "in the style of a pencil drawing", "pencil style"),
    "pixel art": ("in pixel art", "in the style of pixel art", "pixel style"),
}
SOME = ("", "some")
VERBS = {"sitting": "sits", "standing": "stands", "waiting": "waits", "flying": "flies", "floating": "floats"} | {
    "driving": "drives", "shining": "shines", "growing": "grows", "swimming": "swims", "sailing": "sails"
}  # fmt: skip
# Each a word of vocabulary.py and those that are read exactly as it (`tokenizer.with_aliases`).
READ_AS: dict[str, tuple[str, ...]] = {
    "umbrella": ("brolly",),
    "umbrellas": ("brollies",),
    "parasol": ("sunshade",),
    "teapot": ("teakettle",),
    "teapots": ("teakettles",),
    "ball": ("beachball", "sphere"),
    "balls": ("beachballs", "spheres"),
    "cat": ("feline", "pussycat", "tomcat", "tabby", "housecat"),
    "cats": ("felines", "pussycats", "tomcats", "housecats"),
    "dog": ("hound", "doggie", "pooch", "mutt"),
    "dogs": ("hounds", "pooches", "mutts"),
    "puppy": ("pup",),
    "puppies": ("pups",),
    "fish": ("goldfish",),
    "duck": ("mallard",),
    "ducks": ("mallards",),
    "bird": ("songbird", "sparrow", "seagull", "robin"),
    "birds": ("songbirds", "sparrows", "seagulls", "robins"),
    "flower": ("tulip", "rose", "bloom", "poppy", "daffodil", "wildflower", "sunflower"),
    "flowers": ("tulips", "roses", "blooms", "poppies", "daffodils", "wildflowers", "sunflowers"),
    "mushroom": ("fungus",),
    "mushrooms": ("fungi",),
    "car": ("motorcar", "sedan", "hatchback", "taxi"),
    "cars": ("motorcars", "sedans", "hatchbacks", "taxis"),
    "bus": ("minibus",),
    "sailboat": ("yacht", "dinghy", "schooner"),
    "sailboats": ("yachts", "dinghies", "schooners"),
    "spaceship": ("spacecraft", "rocketship", "starship"),
    "spaceships": ("rocketships", "starships"),
    "airplane": ("aircraft", "airliner", "jetliner", "biplane"),
    "airplanes": ("airliners", "jetliners", "biplanes"),
    "cottage": ("cabin", "hut", "bungalow", "farmhouse", "chalet", "villa"),
    "cottages": ("cabins", "huts", "bungalows", "farmhouses", "chalets", "villas"),
    "fortress": ("citadel", "fort", "stronghold"),
    "fortresses": ("citadels", "forts", "strongholds"),
    "tent": ("tepee", "teepee", "wigwam"),
    "tents": ("tepees", "teepees", "wigwams"),
    "red": ("reddish", "vermilion"),
    "crimson": ("ruby",),
    "blue": ("bluish", "navy", "cobalt"),
    "azure": ("sapphire",),
    "green": ("greenish",),
    "emerald": ("jade",),
    "yellow": ("yellowish",),
    "golden": ("gold",),
    "purple": ("purplish", "mauve"),
    "violet": ("lavender", "lilac"),
    "pink": ("pinkish",),
    "brown": ("brownish",),
    "grey": ("greyish", "grayish", "silvery"),
    "white": ("whitish",),
    "black": ("onyx",),
    "tiny": ("mini", "miniature", "teeny", "wee"),
    "small": ("petite", "smaller", "smallest"),
    "medium": ("midsize", "midsized", "average"),
    "large": ("vast", "colossal", "oversized", "humongous", "bigger", "biggest", "larger", "largest", "tall"),
    "huge": ("enormous", "gigantic", "immense", "massive"),
    "meadow": ("garden", "grassland", "pasture", "meadows", "gardens", "grasslands", "prairie", "park"),
    "beach": ("beaches",),
    "shore": ("coast", "coastline", "seashore", "shoreline"),
    "snowy": ("wintry",),
    "winter": ("wintertime",),
    "desert": ("deserts",),
    "dunes": ("dune",),
    "forest": ("woodland", "forests", "jungle", "grove"),
    "woods": ("woodlands",),
    "mountain": ("hill", "peak", "summit", "hillside"),
    "mountains": ("hills", "peaks", "highlands"),
    "sea": ("seas",),
    "ocean": ("lake", "oceans", "lakes", "pond"),
    "city": ("metropolis", "cities", "cityscape", "skyline"),
    "town": ("village", "towns", "villages"),
    "street": ("streets", "avenue", "alley"),
    "field": ("cornfield", "wheatfield"),
    "countryside": ("fields",),
    "farm": ("farmland", "farms", "farmyard", "barnyard"),
    "universe": ("cosmos", "galaxy", "galaxies"),
    "sky": ("skies",),
    "dusk": ("twilight",),
    "sunset": ("sunrise", "dawn"),
    "noon": ("midday",),
    "clear": ("sunny", "cloudless", "sunlit"),
    "rain": ("drizzle", "rainfall", "downpour", "rainstorm"),
    "raining": ("drizzling",),
    "rainy": ("drizzly",),
    "snowfall": ("snowstorm", "blizzard", "snowflakes"),
    "mist": ("haze",),
    "misty": ("hazy",),
    "next": ("adjacent",),
    "beside": ("alongside", "besides"),
    "in": ("inside", "within"),
    "sitting": ("seated", "resting"),
    "floating": ("hovering", "drifting"),
    "flying": ("soaring", "gliding"),
    "shining": ("glowing",),
    "two": ("some",),
    "three": ("several",),
    "picture": ("image", "pic"),
    "pencil": ("graphite",),
    "drawn": ("sketched",),
    "pixel": ("pixels",),
    "pixelated": ("pixelart", "pixellated"),
}
LINKS = ("it is", "are", "one", "that is", "each other", "side by side", "no", "without")
TABLES = (
    OBJECTS, COLOURS, POSITIONS, SIDES, SIZES, SCENES, PLACES, WEATHERS, LIGHTS, TIMES, FALLING, STYLES,
    STYLES_AFTER, SOME, VERBS, LINKS, READ_AS,
)  # fmt: skip
