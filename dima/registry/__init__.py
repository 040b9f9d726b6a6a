"""Names of tasks, world models and algorithms: where they are found, and which of them may be imported.

A name is looked up in a :class:`Registry`: among what was registered by decorator, in the library, among the entry
points of installed packages. Nothing is imported before it is asked for.

``package.module:Name`` is code of the user's own that is not registered (``load``); an object that the user gave in
Python has such a name, too (``given``). Names in a file are data; names that the user types and objects that the user
gives are consent (``consent``).
"""

from dima.registry.consent import Allowed as Allowed
from dima.registry.consent import FromFile as FromFile
from dima.registry.consent import agreed as agreed
from dima.registry.given import Named as Named
from dima.registry.given import give as give
from dima.registry.given import given_object as given_object
from dima.registry.given import is_local as is_local
from dima.registry.given import keep as keep
from dima.registry.given import typed_name as typed_name
from dima.registry.load import load_attribute as load_attribute
from dima.registry.load import load_module as load_module
from dima.registry.load import load_name as load_name
from dima.registry.names import Registry as Registry
