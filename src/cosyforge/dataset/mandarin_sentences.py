"""Mandarin sentences to synthesize for the built-in base model: everyday templates, and phrases in a row for every sound and tone."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

_SUBJECTS = (
    "我|你|他|她|我们|他们|大家|妈妈|爸爸|老师|医生|司机|邻居|孩子们|我朋友|他姐姐|你弟弟|那个女孩|这位先生|老板|同学们|爷爷|奶奶|"
    "经理|警察|客人|农民|护士|学生|两个男人"
).split("|")
_TIMES = (
    "今天|明天|昨天晚上|每天早上|下个星期|上个月|周末|现在|刚才|以后|去年冬天|春天的时候|下午三点|晚饭以后|中午|星期五|"
    "八月十五号|半个小时以前|睡觉以前|放假的时候|夏天|明年"
).split("|")
_PLACES = (
    "在家里|在学校|在图书馆|在公园门口|在车站|在海边|在厨房|在办公室|在山上|在商店旁边|在河边|在火车上|在医院|在城里|在院子里|"
    "在楼下|在饭店|在路上|在教室后面|在桥上"
).split("|")
_VERBS = (
    "看书|吃饭|睡觉|跑步|唱歌|跳舞|写信|喝茶|买东西|打电话|学习中文|洗衣服|做作业|听音乐|看电影|画画|游泳|等公共汽车|聊天|休息|"
    "开会|种花|修自行车|照相|踢足球|骑马|包饺子|搬桌子|打扫房间|练习书法"
).split("|")
_PAST = (
    "买了|卖了|找到了|丢了|打开了|关上了|带来了|忘了|看见了|喜欢|需要|准备了|修好了|送给我|借走了|拿走了|画了|检查了|收到了|藏起来了"
).split("|")
_OBJECTS = (
    "一本红色的书|一杯热咖啡|那扇窗户|新手机|旧照片|一双皮鞋|三个苹果|两张票|一把雨伞|所有的钥匙|一封信|蓝色的自行车|一碗牛肉面|"
    "黄色的花|今天的报纸|一块蛋糕|那只小猫|一件毛衣|四瓶牛奶|爷爷的手表|一条鱼|一盒巧克力|桌子上的电脑|他的帽子|一幅地图|白色的衬衫|"
    "半个西瓜|这个问题的答案|一张桌子|六把椅子"
).split("|")
_NOUNS = (
    "天气|房间|城市|问题|电影|蛋糕|汽车|山路|苹果|衣服|音乐|故事|办法|教室|花园|河水|月亮|声音|味道|工作|比赛|节日|照片|冬天|夏天|"
    "图书馆|火车站|孩子|小狗|老虎|熊猫|飞机|船|雪|风|雨"
).split("|")
_ADJECTIVES = (
    "漂亮|冷|热|安静|重要|有意思|便宜|贵|新|旧|大|小|长|短|干净|奇怪|容易|困难|舒服|危险|好吃|甜|酸|辣|快|慢|高|低|美丽|特别|"
    "普通|热闹|清楚|聪明|温暖|凉快"
).split("|")
_NUMBERS = "两|三|四|五|六|七|八|九|十|十二|十五|二十|三十|一百|二百五十|一千".split("|")
_MEASURES = "个小时|分钟|天|年|个月|公里|次|米|个星期".split("|")
_TEMPLATES = (
    "{S}{T}{P}{V}。|{T}{S}{past}{O}。|这个{N}很{A}。|那个{N}太{A}了！|你{T}想不想{V}？|请你把{O}放{P}。|{S}{past}{O}，可是{S2}不知道。|"
    "为什么{N}这么{A}？|如果{T}有空，{S}就{P}{V}。|{S}已经{V}{num}{M}了。|{N}比{N2}更{A}。|我觉得这里的{N}非常{A}。|你知道{O}在哪里吗？|"
    "{S}一边{V}，一边{V2}。|因为{N}很{A}，所以{S}不能{V}。|虽然{N}不{A}，但是很{A2}。|{S}从来没有{P}{V}。|能不能帮我拿{O}？|"
    "{T}的{N}真{A}。|{S}和{S2}{T}一起{V}。|从这里到那里要走{num}{M}。|{S}说{N}又{A}又{A2}。|别{P}{V}，好吗？|先{V}，再{V2}。|"
    "{S}最喜欢{V}。|谁{T}{past}{O}？|{N}里有{num}个人。|祝{S}{T}一切顺利。|对不起，{S}把{O}弄坏了。|快点儿，{S2}{P}等着呢。"
).split("|")

_HAN = re.compile("[\u4e00-\u9fff]+")


def everyday_sentence(rng: random.Random) -> str:
    """One sentence from the templates."""
    fill = {
        "S": rng.choice(_SUBJECTS), "S2": rng.choice(_SUBJECTS), "T": rng.choice(_TIMES), "P": rng.choice(_PLACES),
        "V": rng.choice(_VERBS), "V2": rng.choice(_VERBS), "past": rng.choice(_PAST), "O": rng.choice(_OBJECTS),
        "N": rng.choice(_NOUNS), "N2": rng.choice(_NOUNS), "A": rng.choice(_ADJECTIVES), "A2": rng.choice(_ADJECTIVES),
        "num": rng.choice(_NUMBERS), "M": rng.choice(_MEASURES),
    }  # fmt: skip
    return rng.choice(_TEMPLATES).format(**fill)


def phrase_mixture(rng: random.Random, phrases: list[str]) -> str:
    """Unrelated phrases in a row: no sense, but every syllable and tone in many neighbourhoods."""
    chosen = [rng.choice(phrases) for _ in range(rng.randint(2, 5))]
    if len(chosen) > 2 and rng.random() < 0.5:
        chosen[rng.randrange(1, len(chosen) - 1)] += "，"
    return "".join(chosen) + rng.choice("。。。。？！")


def mandarin_sentences(count: int, phrases: Iterable[str], seed: int = 7) -> list[str]:
    """`count` distinct sentences, three in five from templates, the others mixtures of the given phrases (two to four hanzi are used)."""
    rng = random.Random(seed)
    usable = sorted({phrase for phrase in phrases if _HAN.fullmatch(phrase) and 2 <= len(phrase) <= 4})
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen[everyday_sentence(rng) if rng.random() < 0.6 or not usable else phrase_mixture(rng, usable)] = None
    return list(chosen)
