"""Relations that English does not keep apart, so that one's value is a fair answer to the other's question."""

from __future__ import annotations

AMBIGUOUS = (
    {"P17", "P131", "P276", "P30", "subregion"},
    {"P103", "P1412"},
    {"P407", "P364"},
    {"P106", "P39", "P101"},
    {"P106", "P641", "P413"},
    {"P176", "P178", "P1056"},
    {"P31", "P279", "P361"},
    {"P171", "P31", "P279"},
    {"P35", "P6", "monarch"},
    {"P495", "P740"},
    {"P19", "P740"},
    {"P463", "P361", "P54", "P118"},
    {"P127", "P749"},
    {"P569", "P571", "P577"},
    {"P138", "P361"},
    {"P1001", "P17"},
    {"P740", "P571"},
    {"P169", "P488", "manager"},
    {"P178", "P61", "P170", "P50", "P112"},
    {"P175", "P86", "P162", "P57", "P58", "P161"},
    {"diet", "habitat"},
    {"party", "regiment", "P463"}, {"regiment", "P108"}, {"military_rank", "P39"}, {"eye_color", "P462"},
    {"festival_headliner", "P161", "P175"}, {"archipelago", "P276", "P361", "P131"}, {"victor_commander", "P1346"},
    {"filming_place", "P276"}, {"story_setting", "P276"}, {"premiere_city", "P276"}, {"museum", "P276", "P127"}, {"home_port", "P276", "P17"},
    {"film_budget", "price"}, {"disease_carrier", "P828"}, {"editor_in_chief", "manager"}, {"translator", "P50"}, {"fuel", "game_engine", "P306"},
    {"film_editor", "editor_in_chief"}, {"protagonist", "P921", "P161"}, {"predecessor", "heir", "P22"}, {"predecessor", "P155"}, {"heir", "P156"}, {"crime", "sentence", "prison"},
    {"lyricist", "P50", "P86", "P175", "P170"}, {"illustrator", "P170", "P50"}, {"building_contractor", "P84", "P176"}, {"building_restorer", "P84"}, {"biographer", "P50"},
    {"ship_launch_date", "building_opening_date", "foundation_stone_date", "independence_date", "go_live_date", "kickoff_date", "P571", "P577"}, {"signing_date", "entry_into_force", "P571"},
    {"colonial_power", "P1001", "P17"}, {"ancestor_language", "P279", "P361"}, {"source_work", "P921", "P155"}, {"accuser", "plaintiff", "prosecutor"}, {"antidote", "P2176"},
    {"product_owner", "manager", "owner_team"}, {"release_manager", "escalation_contact", "maintainer", "manager", "owner_team"}, {"works_council_chair", "P488"}, {"sitter", "P921"},
    {"assembly_city", "P276", "P495", "P17"}, {"hobby", "P106", "P101", "P641"}, {"music_teacher", "craft_master"}, {"narrator", "P161", "P175"}, {"antagonist", "P161"},
    {"choreographer", "P57", "P170"}, {"costume_designer", "P170", "P84"}, {"art_commissioner", "building_benefactor", "P127"}, {"shipmaster", "manager", "P169"}, {"flag_state", "P17", "P495"},
)  # fmt: skip
"""Ids of relations whose phrasings may ask for each other's value."""


def ambiguous(a: str, b: str) -> bool:
    """Whether a phrasing of one relation may fairly be answered with the other's value."""
    return a == b or any(a in group and b in group for group in AMBIGUOUS)


OPPOSITES = (
    {"P22", "P25", "P26", "P40", "P3373", "godparent", "stepmother", "mother_in_law", "father_in_law", "paternal_grandfather", "maternal_grandmother"}, {"P155", "P156"}, {"predecessor", "heir"}, {"P36", "P1376"}, {"P355", "P749"}, {"P361", "P527"},
    {"P569", "P570"}, {"river_mouth", "river_source"}, {"left_tributary", "right_tributary"}, {"northern_terminus", "southern_terminus"}, {"record_high", "record_low"},
    {"protagonist", "antagonist"},
)  # fmt: skip
"""Ids of relations that are worded alike and never ask for each other's value."""


def opposite(a: str, b: str) -> bool:
    """Whether two relations are such that the words of the one, exactly, are not another way to ask for the other."""
    return a != b and any(a in group and b in group for group in OPPOSITES)
