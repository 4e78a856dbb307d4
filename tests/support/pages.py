"""A report's page as text, and taken apart into elements and sections."""

import html.parser

from ctkeras.report import report


class Parsed(html.parser.HTMLParser):
    """What a page holds: elements with their attributes, the text of each section, ids."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.ids, self.sections, self.section = [], [], {}, ""
        self.depth, self.words = 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "section":
            self.section = attributes["id"]
            self.sections[self.section] = ""

    def handle_endtag(self, tag):
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        self.words.append(data)
        if self.section:
            self.sections[self.section] += data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def written(folder, **options):
    return report.write_report(folder, **options).read_text(encoding="utf-8")
