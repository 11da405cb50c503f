"""Texts for the tokenizer oracle: sentences in many scripts, code, and seeded random mixtures."""

import pathlib
import random
import unicodedata

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'd say we'll see; they've gone.",
    "IT'S LOUD HERE, ISN'T IT? WE'LL GO, THEY'RE LATE, I'M OFF, YOU'D STAY, I'VE LEFT.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich – „ganz schön schnell“.",
    "Portez ce vieux whisky au juge blond qui fume ; l’été, c’est déjà là où naît l’œuvre.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia. ¿Qué? ¡Ñandú!",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак п'є ґрунт.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ὁ ἄνθρωπος πολιτικὸν ζῷον ἐστίν.",
    "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה. שָׁלוֹם עֲלֵיכֶם",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. ٠١٢٣٤٥٦٧٨٩ پارسی ۱۲۳",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण। १२३ ক্ষুদ্র বাংলা বাক্য ০১২",
    "அம்மா வீட்டிற்கு வந்தாள். తెలుగు వాక్యం ಕನ್ನಡ ಮಾತು മലയാളം വാക്യം ગુજરાતી ਪੰਜਾਬੀ",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓ ພາສາລາວ ភាសាខ្មែរ မြန်မာ",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。１２３ 繁體中文測試「引號」。",
    "いろはにほへと ちりぬるを ワカヨタレソ 日本語のテスト、カタカナｶﾀｶﾅ。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 한글 자모 ㄱㄴㄷ",
    "Tiếng Việt có dấu: Con sói nâu nhảy qua con chó lười. Đặng Ứng Ữ",
    "ሰማይ አይታረስ ንጉሥ አይከሰስ። ქართული ანბანი Հայերեն լեզու ᠮᠣᠩᠭᠣᠯ བོད་ཡིག",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 skin, 🇩🇪🇫🇷🇯🇵 flags, 1️⃣2️⃣ keycaps, ☺️ ❤️‍🔥 🧑🏿‍🚀 🫠",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), ½ ⅓ ² ³ ₄ Ⅷ ⅻ ① ㊿ 〇 六 ௧ ൰ 𝟘𝟙 𝔄𝔅 𝒜",
    "e\u0301 o\u0308 n\u0303 a\u030a \u1112\u1161\u11ab Z\u0351\u036b\u0343a\u0363l\u0368g\u0321o",
    "tabs\tand\t\ttabs\r\nwindows\r\n\r\nold mac\rline\u2028sep\u2029par\x0bvt\x0cff\x85nel\xa0nbsp",
    "zero\u200bwidth\u200cjoin\u200ders\u2060 soft\xadhyphen \ufeffbom \u180emvs \u3000ideo \u202fnn",
    "{\"key\": [1, 2.50, -3e10, null, true], \"s\": \"\\u00e9\\n\"}",
    "for (size_t i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // dot product\n\treturn sum;\n}\n",
    "SELECT name, COUNT(*) FROM t WHERE x >= 10 AND y != 'it''s' GROUP BY 1;\n-- done",
    "https://example.org/a/b?c=d&e=%20f#g user@example.com 192.168.0.1 C:\\dir\\file.txt ~/x_y-z",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 0xDEADBEEF 1e-9 2024-02-29T23:59:60Z",
    "<|im_start|>user\nHello<|im_end|>\n<|endoftext|> <|im_start |> <|im_end|><|im_end|> [X] [Y]",
]


def training_texts():
    """A few hundred kilobytes that tokenizers can be trained on: sentences and source code."""
    code = [p.read_text() for p in sorted(pathlib.Path(__file__).parent.glob("*.py"))]
    generator = random.Random(1)
    words = " ".join(SENTENCES).split()
    mixed = [" ".join(generator.choices(words, k=12)) for _ in range(3000)]
    return SENTENCES * 5 + code + mixed


def _random_character(generator):
    ranges = [(0x20, 0x7F), (0x20, 0x7F), (0, 0x20), (0x80, 0x250), (0x250, 0x600), (0x600, 0x1000),
              (0x1000, 0x2000), (0x2000, 0x2C00), (0x3000, 0x3100), (0x4E00, 0xA000),
              (0xAC00, 0xD7A4), (0xE000, 0x10000), (0x10000, 0x11000), (0x1D400, 0x1D800),
              (0x1F1E6, 0x1F200), (0x1F300, 0x1FA00), (0xE0000, 0xE01F0), (0x10FF00, 0x110000)]
    while True:
        character = chr(generator.randrange(*generator.choice(ranges)))
        # Unassigned ones become letters or digits in some later Unicode version, which the two
        # implementations need not share.
        if unicodedata.category(character) not in ("Cn", "Cs"):
            return character


def _piece(generator, words, marks):
    kind = generator.randrange(10)
    if kind <= 3:
        return generator.choice(words)
    if kind == 4:
        return "".join(_random_character(generator) for _ in range(generator.randrange(1, 12)))
    if kind == 5:
        return "".join(generator.choices(" \t\n\r\u3000\xa0\u2003\x85\x0b", [9, 2, 3, 1, 1, 1, 1, 1, 1],
                                         k=generator.randrange(1, 20)))
    if kind == 6:
        return "".join(generator.choices("0123456789٣५３²Ⅷ½", k=generator.randrange(1, 9)))
    if kind == 7:
        return generator.choice(marks)
    if kind == 8:
        sentence = generator.choice(SENTENCES)
        start = generator.randrange(len(sentence))
        return sentence[start:start + generator.randrange(1, 25)]
    return generator.choice(["'s", "'S", "'ll", "'Re", "'\u017f", "'vE", "'", "''", "!!", "...", " ",
                             "  ", "\n\n", " \n", "\n ", "_", "\u200d", "\ufe0f", "\x00", "\x7f"])


def test_texts(count, marks, seed=7):
    """`count` strings; `marks` are spellings of added tokens to mix in."""
    generator = random.Random(seed)
    words = " ".join(SENTENCES).split() + [" " + w for w in SENTENCES[0].split()]
    texts = ["", " ", "  ", "a", " a", "a ", "\n", "\x00", "\U0010ffff", "a" * 3000, " " * 3000,
             "1" * 500, "\n" * 700, "é" * 800, "👍🏽" * 300, "ab " * 500, "!" * 900, " \n" * 400]
    texts += SENTENCES
    texts += [chr(c) for c in range(0x300)]
    while len(texts) < count:
        texts.append("".join(_piece(generator, words, marks)
                             for _ in range(generator.randrange(1, 12))))
    return texts


def broken_texts(count, seed=11):
    """Byte strings that are not valid UTF-8, most of them almost."""
    generator = random.Random(seed)
    texts = []
    while len(texts) < count:
        data = bytearray("".join(generator.choices(SENTENCES, k=1))[:60].encode())
        for _ in range(generator.randrange(1, 5)):
            at = generator.randrange(len(data))
            choice = generator.randrange(3)
            if choice == 0:
                data[at] = generator.randrange(256)
            elif choice == 1:
                del data[at:]
                data += bytes([generator.choice([0xC3, 0xE2, 0xF0, 0xED, 0xF4, 0x80])])
            else:
                data[at:at] = generator.choice(
                    [b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98",
                     b"\xe2\x82", b"\xff\xfe", b"\xe0\x80\x80", b"\xf8\x88\x80\x80\x80"])
        try:
            bytes(data).decode()
        except UnicodeDecodeError:
            texts.append(bytes(data))
    return texts
