"""One event published to Relight, as the command line and scripts do it: verified user, confirmed, never lost."""

import aiormq
from aiormq import spec
from yarl import URL

from service.adapters.rabbitmq.connection import CONNECT_TIMEOUT, SERVER, ask, close, explain
from service.adapters.rabbitmq.frames import CONTENT_TYPE, PERSISTENT
from service.adapters.rabbitmq.names import EVENTS_EXCHANGE
from service.errors import Misconfigured, Unavailable


async def publish_event(
    amqp_url: str, routing_key: str, body: bytes, message_id: str, timeout: float = CONNECT_TIMEOUT
) -> None:
    """Returns once the broker has confirmed the event. `timeout` in seconds, for connecting and for the confirm each.

    An unknown system or type is no error here: the alternate exchange takes it, and Relight refuses it aloud. Raises
    Unavailable (whether it arrived is then not known; publishing the same id again is safe) and Misconfigured.
    """
    url = URL(amqp_url)
    properties = spec.Basic.Properties(
        content_type=CONTENT_TYPE,
        delivery_mode=PERSISTENT,
        message_id=message_id,
        user_id=url.user or "guest",
        app_id="relight-cli",
    )
    connection = aiormq.Connection(url.update_query(name="relight publish"))
    try:
        await ask(connection.connect(), timeout)
        channel = await ask(connection.channel(publisher_confirms=True, on_return_raises=True), timeout)
        publishing = channel.basic_publish(
            body, exchange=EVENTS_EXCHANGE, routing_key=routing_key, properties=properties, mandatory=True
        )
        await ask(publishing, timeout)
    except aiormq.ChannelNotFoundEntity as error:
        raise Misconfigured(
            (
                f"the broker has no exchange {EVENTS_EXCHANGE!r} in this vhost; the event was not published. "
                "Relight makes it when it starts: run `relight serve` against the same URL first.",
            )
        ) from error
    except aiormq.PublishError as error:
        raise Misconfigured(
            (
                f"nobody takes {routing_key!r}: the exchange {EVENTS_EXCHANGE!r} was declared without Relight's "
                "alternate exchange. The event was not published; `relight serve` says how to mend this.",
            )
        ) from error
    except aiormq.DeliveryError as error:
        raise Unavailable(SERVER, f"it did not accept the event: a queue behind {routing_key!r} is full") from error
    except aiormq.AMQPChannelError as error:
        raise Unavailable(SERVER, f"it refused the event: {explain(error)}") from error
    finally:
        await close(connection)
