"""Everyday sentences that no part of the built-in model was trained on; the yardstick that figures are quoted for."""

EVERYDAY = (
    "There is a large garden behind my house.",
    "Please bring me a glass of cold water.",
    "The children were playing near the river.",
    "I bought a new pair of shoes yesterday.",
    "The train leaves the station at seven.",
    "My sister works in a small hospital.",
    "We are going to the market this afternoon.",
    "He forgot his umbrella on the bus.",
    "The weather will be better tomorrow.",
    "Could you open the window for a minute?",
    "She drinks a cup of tea every morning.",
    "The old man walked slowly down the street.",
    "I have never seen such a beautiful picture.",
    "Dinner will be ready in twenty minutes.",
    "They built a wooden bridge across the stream.",
    "The baby is sleeping in the other room.",
    "You can leave your coat in the hall.",
    "Nobody knew the answer to the question.",
    "The store on the corner closes at nine.",
    "Winter is the coldest season of the year.",
)
