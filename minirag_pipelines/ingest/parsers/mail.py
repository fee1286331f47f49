"""E-mail: the subject as title, who wrote to whom and when, and the body. Attachments are named, not read."""

from __future__ import annotations

import email
import email.policy
import io
from collections.abc import Iterable, Sequence
from email.message import EmailMessage, MIMEPart
from email.policy import EmailPolicy

from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.parsers.encodings import declared_in_markup, decoded
from minirag_pipelines.ingest.parsers.markup import html_parsed
from minirag_pipelines.ingest.parsers.pieces import Parsed, Piece, title_text
from minirag_pipelines.ingest.parsers.plain import text_pieces

_HEADERS = ("From", "To", "Cc", "Date")
_SEALED = ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")


def parse_eml(content: bytes, limits: Limits) -> Parsed:
    """A message as it travels; also a web page saved as one file, which is a message with the page as its body."""
    if b"\0" in content[:64]:
        content = decoded(content).text.encode()
    message = email.message_from_bytes(content, policy=_policy(limits))
    if not isinstance(message, EmailMessage) or not message.keys():
        raise DocumentUnreadable("corrupt", "This is no e-mail: it does not begin with header lines.")
    if message.get_content_type() in _SEALED and message.get_param("smime-type") != "signed-data":
        raise DocumentUnreadable("encrypted", "The e-mail is encrypted.")
    body = message.get_body(preferencelist=("html", "plain"))
    pieces, warnings = _body(body, limits) if body is not None else ([], ())
    if not pieces and (plain := message.get_body(preferencelist=("plain",))) not in (None, body):
        pieces, warnings = _body(plain, limits)
    attached = [_part_name(part) for part in _attachments(message)]
    headers = [(name, _header(message, name)) for name in _HEADERS]
    return _letter(_header(message, "Subject"), headers, pieces, attached, warnings)


def _policy(limits: Limits) -> EmailPolicy[EmailMessage]:
    """How a message is read: parts within parts within it no deeper than allowed."""

    class Part(EmailMessage):
        level = 1

        def attach(self, payload: Part) -> None:  # type: ignore[override]  # every part is one of these
            payload.level = self.level + 1
            limits.check_nesting(payload.level, or_more=True)
            super().attach(payload)

    return email.policy.default.clone(message_factory=Part)


def parse_msg(content: bytes, limits: Limits) -> Parsed:
    """A message as Outlook keeps it."""
    from oxmsg import Message

    message = Message.load(io.BytesIO(content))
    if "encrypted" in (message.message_headers.get("Content-Type") or ""):
        raise DocumentUnreadable("encrypted", "The e-mail is encrypted.")
    page = html_parsed(message.html_body, limits) if message.html_body else None
    pieces = list(page.pieces) if page else text_pieces(message.body or "")
    recipients = ", ".join(each.email_address or each.name for each in message.recipients)
    sent = message.sent_date.isoformat(" ", "seconds") if message.sent_date else ""
    headers = [("From", message.sender or ""), ("To", recipients), ("Date", sent)]
    attached = [attachment.file_name or "without a name" for attachment in message.attachments]
    return _letter(message.subject, headers, pieces, attached, ())


def _letter(
    subject: str | None,
    headers: Iterable[tuple[str, str]],
    body: Sequence[Piece],
    attached: Sequence[str],
    warnings: tuple[str, ...],
) -> Parsed:
    title = title_text(subject)
    top = [Piece("title", title, level=0)] if title else []
    lines = [f"{name}: {' '.join(value.split())}" for name, value in headers if value.strip()]
    if lines:
        top.append(Piece("text", "\n".join(lines)))
    if attached:
        warnings += (f"Attachments that are not read: {', '.join(attached)}.",)
    return Parsed([*top, *body], title, warnings=warnings)


def _body(part: MIMEPart, limits: Limits) -> tuple[list[Piece], tuple[str, ...]]:
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset()
    if part.get_content_subtype() == "html":
        source = decoded(content, charset or declared_in_markup(content))
        return list(html_parsed(source.text, limits).pieces), source.warnings
    source = decoded(content, charset)
    return text_pieces(source.text), source.warnings


def _attachments(message: EmailMessage) -> list[MIMEPart]:
    """Parts that a reader would have to open: those with a name, and messages within."""
    return [
        part
        for part in message.walk()
        if isinstance(part, MIMEPart)
        and part is not message
        and (part.get_content_type() == "message/rfc822" or _disposed(part))
    ]


def _disposed(part: MIMEPart) -> bool:
    try:
        return part.get_content_disposition() == "attachment"
    except (ValueError, LookupError):
        return False


def _part_name(part: MIMEPart) -> str:
    try:
        return part.get_filename() or part.get_content_type()
    except (ValueError, LookupError):
        return part.get_content_type()


def _header(message: EmailMessage, name: str) -> str:
    """A header as a person reads it; as it stands in the message when it is malformed."""
    try:
        return str(message.get(name) or "")
    except Exception:  # noqa: BLE001  # the header parser of the standard library fails in many ways on bad input
        raw = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
        return str(raw)
