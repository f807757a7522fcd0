"""Words of written English that are read otherwise: abbreviations, units, currencies, signs, names of the calendar."""

from __future__ import annotations

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
MONTH_SHORT = {month[:3]: month for month in MONTHS if month != "May"} | {"Sept": "September"}
WEEKDAY_SHORT = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip

ABBREVIATIONS = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Messrs": "Messieurs", "Dr": "Doctor", "Prof": "Professor",
    "Jr": "Junior", "Sr": "Senior", "vs": "versus", "etc": "et cetera", "approx": "approximately", "dept": "department",
    "Dept": "Department", "est": "established", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation",
    "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Mt": "Mount", "Ft": "Fort", "Gen": "General", "Col": "Colonel",
    "Sgt": "Sergeant", "Capt": "Captain", "Lt": "Lieutenant", "Cmdr": "Commander", "Adm": "Admiral", "Rev": "Reverend",
    "Hon": "Honorable", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Pres": "President",
    "Fig": "Figure", "fig": "figure", "Eq": "Equation", "Sec": "Section", "Ch": "Chapter",
    "Vol": "Volume", "vol": "volume",
    "pp": "pages", "misc": "miscellaneous", "tel": "telephone", "Tel": "Telephone", "ext": "extension",
    "Ext": "Extension",
    "Assn": "Association", "Univ": "University", "Bros": "Brothers", "cf": "compare", "ca": "circa",
}  # fmt: skip
"""Read in full when a full stop follows; the stop belongs to the abbreviation."""

TITLES_WITHOUT_STOP = ("Mr", "Mrs", "Ms", "Dr", "Prof")
LATIN = {"e.g.": "for example", "i.e.": "that is", "a.k.a.": "also known as", "w/o": "without", "w/": "with"}

UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"), "kph": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"), "m/s": ("meter per second", "meters per second"),
    "km²": ("square kilometer", "square kilometers"), "m²": ("square meter", "square meters"),
    "m³": ("cubic meter", "cubic meters"), "cm²": ("square centimeter", "square centimeters"),
    "cm³": ("cubic centimeter", "cubic centimeters"), "km2": ("square kilometer", "square kilometers"),
    "m2": ("square meter", "square meters"), "m3": ("cubic meter", "cubic meters"),
    "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
    "μm": ("micrometer", "micrometers"), "nm": ("nanometer", "nanometers"),
    "m": ("meter", "meters"), "ft": ("foot", "feet"), "yd": ("yard", "yards"), "mi": ("mile", "miles"),
    "sq ft": ("square foot", "square feet"), "kg": ("kilogram", "kilograms"), "mg": ("milligram", "milligrams"),
    "g": ("gram", "grams"), "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "L": ("liter", "liters"), "l": ("liter", "liters"), "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"), "gal": ("gallon", "gallons"), "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"), "°": ("degree", "degrees"),
    "ms": ("millisecond", "milliseconds"), "s": ("second", "seconds"),
    "sec": ("second", "seconds"), "min": ("minute", "minutes"), "h": ("hour", "hours"), "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "Mbps": ("megabit per second", "megabits per second"),
    "kbps": ("kilobit per second", "kilobits per second"), "Gbps": ("gigabit per second", "gigabits per second"),
    "W": ("watt", "watts"), "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"), "V": ("volt", "volts"), "mA": ("milliampere", "milliamperes"),
    "mAh": ("milliampere hour", "milliampere hours"), "dB": ("decibel", "decibels"),
    "hPa": ("hectopascal", "hectopascals"),
    "Pa": ("pascal", "pascals"), "cal": ("calorie", "calories"), "kcal": ("kilocalorie", "kilocalories"),
    "mins": ("minute", "minutes"), "secs": ("second", "seconds"), "kgs": ("kilogram", "kilograms"),
    "KG": ("kilogram", "kilograms"), "Kg": ("kilogram", "kilograms"), "wks": ("week", "weeks"), "wk": ("week", "weeks"),
    "yrs": ("year", "years"), "yr": ("year", "years"), "mbps": ("megabit per second", "megabits per second"),
    "¢": ("cent", "cents"), "px": ("pixel", "pixels"), "ha": ("hectare", "hectares"), "%": ("percent", "percent"),
    "kV": ("kilovolt", "kilovolts"), "mV": ("millivolt", "millivolts"), "kPa": ("kilopascal", "kilopascals"),
    "MPa": ("megapascal", "megapascals"), "kJ": ("kilojoule", "kilojoules"), "J": ("joule", "joules"),
    "N": ("newton", "newtons"), "mol": ("mole", "moles"), "rpm": ("revolution per minute", "revolutions per minute"),
    "mm²": ("square millimeter", "square millimeters"), "mm³": ("cubic millimeter", "cubic millimeters"),
    "dm": ("decimeter", "decimeters"), "dm²": ("square decimeter", "square decimeters"),
    "dm³": ("cubic decimeter", "cubic decimeters"), "km³": ("cubic kilometer", "cubic kilometers"),
    "g/l": ("gram per liter", "grams per liter"), "g/L": ("gram per liter", "grams per liter"),
    "mg/L": ("milligram per liter", "milligrams per liter"), "kg/m³": ("kilogram per cubic meter", "kilograms per cubic meter"),
    "g/cm³": ("gram per cubic centimeter", "grams per cubic centimeter"),
    "m/s²": ("meter per second squared", "meters per second squared"),
    "L/min": ("liter per minute", "liters per minute"), "μs": ("microsecond", "microseconds"),
    "μg": ("microgram", "micrograms"), "ns": ("nanosecond", "nanoseconds"),
    "‰": ("per mille", "per mille"),
}  # fmt: skip

CURRENCIES = {
    "US$": ("dollar", "dollars", "cent", "cents"), "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "C$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "A$": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "S$": ("Singapore dollar", "Singapore dollars", "cent", "cents"), "NT$": ("Taiwan dollar", "Taiwan dollars", "", ""),
    "$": ("dollar", "dollars", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"), "¥": ("yuan", "yuan", "fen", "fen"), "₩": ("won", "won", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"), "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "฿": ("baht", "baht", "", ""), "JPY": ("yen", "yen", "", ""), "CHF": ("Swiss franc", "Swiss francs", "", ""),
}  # fmt: skip
"""One and many of the currency, one and many of its hundredth (empty: nobody says it)."""

CURRENCY_CODES = {
    "USD": "$", "GBP": "£", "EUR": "€", "CNY": "¥", "RMB": "¥", "HKD": "HK$", "CAD": "C$", "AUD": "A$", "SGD": "S$",
    "TWD": "NT$", "KRW": "₩", "INR": "₹", "RUB": "₽", "THB": "฿", "JPY": "JPY", "CHF": "CHF",
}  # fmt: skip
MAGNITUDES = {
    "k": "thousand",
    "K": "thousand",
    "M": "million",
    "m": "million",
    "bn": "billion",
    "B": "billion",
    "b": "billion",
}

SIGNS = {
    "&": "and", "@": "at", "+": "plus", "=": "equals", "×": "times", "÷": "divided by", "±": "plus or minus",
    "≈": "approximately", "≠": "is not equal to", "≤": "is at most", "≥": "is at least", "<": "less than",
    ">": "greater than", "√": "square root of", "∞": "infinity", "π": "pi", "α": "alpha", "β": "beta", "γ": "gamma",
    "δ": "delta", "λ": "lambda", "μ": "mu", "σ": "sigma", "ω": "omega", "Ω": "ohm", "§": "section", "©": "copyright",
    "®": "registered", "→": "to", "←": "from", "\\": "backslash", "_": "underscore", "^": "to the power of",
    "%": "percent", "°": "degrees", "$": "dollars", "£": "pounds", "€": "euros", "¥": "yuan", "#": "hash",
    "~": "about", "*": "asterisk", "/": "slash",
}  # fmt: skip
"""What a sign that no earlier rule took is called."""

ROMAN_AFTER = "Chapter|Part|Volume|Act|Scene|Section|Phase|Type|Class|War|Book|Level|Stage|Appendix|Article|Title|Grade"
KINGS = (
    "Henry|Louis|Elizabeth|George|Charles|William|Edward|James|Richard|Philip|Francis|Frederick|Napoleon|Nicholas|Paul|"
    "Pius|Benedict|Leo|John|Alexander|Catherine|Peter|Ferdinand|Gustav|Christian|Margaret|Mary"
)
NUMBERED_PLACES = "Room|room|Suite|suite|Apt|Apartment|apartment|Route|Highway|Interstate|Bus|Flight|flight|Gate|Ext"
"""A number of three or four digits after one of them is said in pairs: one oh one."""

NUMBERED_NAMES = "zip|Zip|ZIP|[Pp]ostal|[Aa]rea|PIN|[Aa]ccess|[Ss]ecurity|[Pp]asscode|[Vv]erification|[Ee]xtension"
"""A number after one of them (and perhaps `code`) is read digit by digit."""

DIALLED = "call|Call|calling|called|dial|Dial|dialing|dialed|text|Text|phone|Phone|ring|Ring"

SOFTWARE = "version|Version|Python|Java|iOS|iPadOS|Android|macOS|PHP|Ubuntu|Node|Linux|kernel|release|Release|Go|Ruby"
"""After one of them 3.11 is three point eleven."""

ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
