"""RabbitMQ behind the ports Broker, Lanes, Publisher, Commands and StatusReader. Only this room imports its clients.

`tap` and `frames` read deliveries, `confirms` and `publisher` send batches, `connection` keeps the sockets, `names` and
`topology` are what is declared. Nothing here knows what an event or a notification means.
"""

from service.adapters.rabbitmq.broker import RabbitBroker
from service.adapters.rabbitmq.diagnosing import diagnose
from service.adapters.rabbitmq.events import publish_event
from service.adapters.rabbitmq.limits import limits_as_commands, set_limits
from service.adapters.rabbitmq.status import RabbitStatusReader

__all__ = ["RabbitBroker", "RabbitStatusReader", "diagnose", "limits_as_commands", "publish_event", "set_limits"]
